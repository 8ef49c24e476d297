"""What pyproject.toml cannot say: a wheel carries recipes, descriptors and locks, which lie beside the package in a clone."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithShipped(build_py):
    """Copy them into the package that is built, not into an editable one."""

    def run(self):
        """Build, then copy."""
        super().run()
        if not self.editable_mode:
            for folder, pattern in (("configs", "*.yaml"), ("datasets", "*.yaml"), ("requirements", "*.txt")):
                target = Path(self.build_lib, "intrr_rec", "shipped", folder)
                target.mkdir(parents=True, exist_ok=True)
                for file in sorted(Path(folder).glob(pattern)):
                    shutil.copyfile(file, target / file.name)


setup(cmdclass={"build_py": BuildWithShipped})
