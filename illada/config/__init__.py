"""Typed, frozen configuration: what a run is (identity) and where it happens (placement)."""

from illada.config.base import Config, ConfigError
from illada.config.data import (
    Curate,
    DataConfig,
    Deduplicate,
    Pairs,
    PythonCode,
    Source,
    TextFiles,
    Tokenize,
    Tokenizer,
    WarcFiles,
    WebDocs,
)
from illada.config.evaluation import Evaluate, Generate, Release
from illada.config.load import apply_overrides, dump_config, load_config, parse_config, read_config
from illada.config.model import ModelConfig
from illada.config.placement import DataPlacement, Placement, TrainPlacement
from illada.config.training import Objective, Optimizer, Schedule, Training
from illada.config.workflow import RunConfig, WorkflowConfig

__all__ = [
    "Config",
    "ConfigError",
    "Curate",
    "DataConfig",
    "DataPlacement",
    "Deduplicate",
    "Evaluate",
    "Generate",
    "ModelConfig",
    "Objective",
    "Optimizer",
    "Pairs",
    "Placement",
    "PythonCode",
    "Release",
    "RunConfig",
    "Schedule",
    "Source",
    "TextFiles",
    "Tokenize",
    "Tokenizer",
    "TrainPlacement",
    "Training",
    "WarcFiles",
    "WebDocs",
    "WorkflowConfig",
    "apply_overrides",
    "dump_config",
    "load_config",
    "parse_config",
    "read_config",
]
