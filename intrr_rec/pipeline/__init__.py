"""The line as jobs of one scheduler: prepare → embed → index → train → evaluate → export, and every day → promote."""
