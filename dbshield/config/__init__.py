"""One validated configuration: `dbshield.toml`, environment variables on top, and the secrets that they point at."""

from dbshield.config.address import ListenAddress
from dbshield.config.backup import BackupConfig
from dbshield.config.load import InvalidConfig, Problem, find_config, load_config
from dbshield.config.model import AuditConfig, Config, ControlConfig, EnvironmentConfig, LogConfig, ProxyConfig
from dbshield.config.names import check_name, near
from dbshield.config.policy import AgentConfig, EnvironmentOverride, OverrideConfig, PolicyConfig

__all__ = [
    "AgentConfig",
    "AuditConfig",
    "BackupConfig",
    "Config",
    "ControlConfig",
    "EnvironmentConfig",
    "EnvironmentOverride",
    "InvalidConfig",
    "ListenAddress",
    "LogConfig",
    "OverrideConfig",
    "PolicyConfig",
    "Problem",
    "ProxyConfig",
    "check_name",
    "find_config",
    "load_config",
    "near",
]
