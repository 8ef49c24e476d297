"""Components by name: the built-in ones, those that installed packages register, and those that a dotted path names.

A component is a class: a backbone, a quantizer, a kind of model, an encoder, a log reader or a tracker. A setting names it in one of
three ways:

* by a built-in name, `model.backbone: hstu`;
* by the name of an entry point that an installed package declares in the group `intrr_rec.backbones`;
* by a dotted path, `model.backbone: my_pkg.mod:MyBackbone`.

The settings of a component are its class attribute `Config`, a `Section` whose every field has a default. They stand beside
the setting that names the component, in a section that is called as the component (for a dotted path: as the class, in
snake case): `model.my_backbone.layers=2`. `docs/extending.md` is the guide.

Nothing here imports torch; a built-in component is imported when it is built, a foreign one when its settings are read.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, ValidationError, create_model, model_validator

from intrr_rec.config.section import Section
from intrr_rec.errors import ConfigError, nearest

Group = Literal["backbones", "quantizers", "models", "encoders", "readers", "trackers"]
ENTRY_POINTS = "intrr_rec.{}"  # the entry-point group of a Group
# Not entry points of this package: the source tree works without being installed, and no scan of what is installed is
# needed to find a built-in component.
BUILT_IN: dict[Group, dict[str, str]] = {
    "backbones": {
        "hstu": "intrr_rec.models.backbones.hstu:Hstu",
        "t5": "intrr_rec.models.backbones.t5:T5",
    },
    "models": {
        "intrr": "intrr_rec.models.intrr:IntRR",
        "flattened": "intrr_rec.models.flattened:Flattened",
        "tiger": "intrr_rec.models.tiger:Tiger",
        "sasrec": "intrr_rec.models.sasrec:SASRec",
        "item_knn": "intrr_rec.models.neighbours.item_knn:ItemKnn",
    },
    "quantizers": {
        "rk_means": "intrr_rec.semantic_ids.quantizers.residual_kmeans:ResidualKMeans",
        "residual_vq": "intrr_rec.semantic_ids.quantizers.residual_vq:ResidualVQ",
        "vq_vae": "intrr_rec.semantic_ids.quantizers.vqvae:VqVae",
        "rq_vae": "intrr_rec.semantic_ids.quantizers.rqvae:RqVae",
    },
    "encoders": {"sentence_transformers": "intrr_rec.vectors.encoder:SentenceEncoder"},
    "trackers": {
        "none": "intrr_rec.training.trackers.tracker:NoTracker",
        "mlflow": "intrr_rec.training.trackers.mlflow:Mlflow",
        "wandb": "intrr_rec.training.trackers.wandb:Wandb",
    },
    "readers": {
        "amazon_2014_metadata": "intrr_rec.data.raw.formats:AmazonMetadata",
        "movielens_1m_ratings": "intrr_rec.data.raw.formats:MovieLens1MRatings",
        "movielens_1m_movies": "intrr_rec.data.raw.formats:MovieLens1MMovies",
        "movielens_20m_ratings": "intrr_rec.data.raw.formats:MovieLens20MRatings",
        "movielens_20m_movies": "intrr_rec.data.raw.formats:MovieLens20MMovies",
    },
}


def names(group: Group) -> list[str]:
    """Every registered name of a group: the built-in ones, then those of installed packages."""
    return [*BUILT_IN[group], *sorted(set(_registered(group)) - set(BUILT_IN[group]))]


def require_known(group: Group, name: str) -> str:
    """`name`, if it is registered or a dotted path.

    Raises:
        ConfigError: it is neither; the error names the nearest registered one.
    """
    if name in BUILT_IN[group] or ":" in name or name in _registered(group):
        return name
    known = names(group)
    near = nearest(name, known)
    suggestion = f" (did you mean '{near}'?)" if near else ""
    raise ConfigError(
        f"'{name}' is none of {', '.join(known)}{suggestion}; a plug-in's is found once its package is "
        "installed, or by a dotted path such as my_pkg.mod:MyClass"
    )


@cache
def component(group: Group, name: str) -> Any:
    """The class that `name` stands for.

    Raises:
        ConfigError: an unknown name; a module that cannot be imported; no such class in it; or a class without `Config`.
    """
    require_known(group, name)
    registered = {} if name in BUILT_IN[group] or ":" in name else _registered(group)
    path = BUILT_IN[group].get(name) or (registered[name].value if name in registered else name)
    module, _, attribute = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ConfigError(
            f"'{name}' cannot be imported ({error}); install its package, or write module:Class"
        ) from None
    config = getattr(found, "Config", None)
    if not isinstance(found, type) or not (isinstance(config, type) and issubclass(config, Section)):
        raise ConfigError(f"'{name}' is no component: it must be a class whose `Config` is a settings section")
    try:
        config()
    except ValidationError as error:
        missing = ".".join(map(str, error.errors()[0]["loc"]))
        raise ConfigError(f"'{name}': every setting of its Config needs a default, but '{missing}' has none") from None
    return found


def section_name(name: str) -> str:
    """The section that holds the settings of a component: its name, or the class's of a dotted path in snake case."""
    attribute = name.rpartition(":")[2]
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", attribute).lower() if ":" in name else name


@cache
def _registered(group: Group) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS.format(group))}


class ComponentSection(Section):
    """A section whose settings name components, and that holds their own settings beside them.

    Sections of built-in components are declared fields. Those of foreign ones are checked by the `Config` of their class,
    and filled with its defaults, so that a saved recipe is whole.

    Attributes:
        COMPONENTS: the setting that names a component → its group.
        BASES: that setting → what the settings of such a component must be a subclass of.
    """

    model_config = ConfigDict(extra="allow")
    COMPONENTS: ClassVar[dict[str, Group]] = {}
    BASES: ClassVar[dict[str, type[Section]]] = {}

    @model_validator(mode="after")
    def _with_foreign_settings(self) -> ComponentSection:
        given = dict(self.__pydantic_extra__ or {})
        chosen = {}
        try:
            for field, group in self.COMPONENTS.items():
                require_known(group, getattr(self, field))
                for name in _with_settings(group, getattr(self, field), given):
                    config = component(group, name).Config
                    if not issubclass(config, self.BASES.get(field, Section)):
                        raise ConfigError(f"'{name}': its Config must be a subclass of {self.BASES[field].__name__}")
                    chosen[section_name(name)] = config
        except ConfigError as error:
            raise ValueError(f"{field} {error}") from None
        if clash := set(chosen) & set(type(self).model_fields):
            raise ValueError(f"'{min(clash)}' is a section already; give the component another name")
        if not chosen and not given:
            return self
        fields: dict[str, Any] = {name: (config, config()) for name, config in chosen.items()}
        parsed = create_model("Foreign", __base__=Section, **fields).model_validate(given)
        object.__setattr__(self, "__pydantic_extra__", {name: getattr(parsed, name) for name in chosen})
        return self

    def of(self, field: str) -> Section:
        """The settings of the component that `field` names."""
        name = getattr(self, field)
        return getattr(self, section_name(name), None) or component(self.COMPONENTS[field], name).Config()


def _with_settings(group: Group, name: str, given: Iterable[str]) -> list[str]:
    """The foreign components of a group that have a section: the chosen one, and registered ones that settings were given of."""
    foreign = [] if name in BUILT_IN[group] else [name]
    rest = [other for other in given if other not in BUILT_IN[group] and section_name(name) != other]
    return [*foreign, *(other for other in rest if other in _registered(group))]
