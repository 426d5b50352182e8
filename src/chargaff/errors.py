"""The exceptions chargaff raises on purpose. Anything else that escapes is a bug."""


class ChargaffError(Exception):
    """Base of all errors a user can act on; the message names the place, the value and the remedy."""


class ConfigError(ChargaffError, ValueError):
    """A run file, flag or model config is wrong."""


class InputError(ChargaffError, ValueError):
    """User data is malformed; the message holds file:line or the record id."""


class CheckpointError(ChargaffError, RuntimeError):
    """Weights are missing, corrupt, or do not match the model."""


class BackendError(ChargaffError, RuntimeError):
    """No kernel or device can do this call."""


class DependencyError(ChargaffError, ImportError):
    """An optional package is missing; the message names the feature, the package and the extra."""
