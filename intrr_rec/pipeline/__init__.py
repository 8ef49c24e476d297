"""The line as jobs of one scheduler: prepare → index → train → evaluate → export."""
