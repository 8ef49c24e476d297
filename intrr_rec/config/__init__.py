"""The settings tree of every verb; `recipe` reads and checks it, the other modules hold its sections."""

from intrr_rec.config.components import ComponentSection, component, names, require_known, section_name
from intrr_rec.config.indexing import (
    AutoencoderConfig,
    CodebookTraining,
    CollaborativeConfig,
    DriftConfig,
    GateConfig,
    IndexConfig,
)
from intrr_rec.config.logs.preparation import PrepareConfig
from intrr_rec.config.model import (
    BackboneConfig,
    DenseConfig,
    FlattenedConfig,
    HstuConfig,
    IntrrConfig,
    ItemKnnConfig,
    KindConfig,
    ModelConfig,
    NeighboursConfig,
    RanConfig,
    SasrecConfig,
    T5Config,
    TigerConfig,
    ZchConfig,
)
from intrr_rec.config.recipe import Recipe, is_sealed, load_recipe, parse, read_yaml, same_run, save_recipe
from intrr_rec.config.section import Section, read_section
from intrr_rec.config.serving import ServeConfig
from intrr_rec.config.sharding import ShardingConfig, TopologyConfig
from intrr_rec.config.training import EvaluateConfig, TrainConfig

__all__ = [
    "AutoencoderConfig",
    "BackboneConfig",
    "CodebookTraining",
    "CollaborativeConfig",
    "ComponentSection",
    "DenseConfig",
    "DriftConfig",
    "EvaluateConfig",
    "FlattenedConfig",
    "GateConfig",
    "HstuConfig",
    "IndexConfig",
    "IntrrConfig",
    "ItemKnnConfig",
    "KindConfig",
    "ModelConfig",
    "NeighboursConfig",
    "PrepareConfig",
    "RanConfig",
    "Recipe",
    "SasrecConfig",
    "Section",
    "ServeConfig",
    "ShardingConfig",
    "T5Config",
    "TigerConfig",
    "TopologyConfig",
    "TrainConfig",
    "ZchConfig",
    "component",
    "is_sealed",
    "load_recipe",
    "names",
    "parse",
    "read_section",
    "read_yaml",
    "require_known",
    "same_run",
    "save_recipe",
    "section_name",
]
