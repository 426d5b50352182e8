"""Import of packages that only some features need."""

import importlib
from types import ModuleType

from chargaff.errors import DependencyError


def need(module: str, *, extra: str, feature: str, package: str | None = None) -> ModuleType:
    """The imported module, or a DependencyError that says what to install.

    Args:
        module: import name, dots allowed ("sklearn.cluster").
        extra: extra of this package that brings it.
        feature: what the user asked for, completing "... needs".
        package: distribution name where it differs from the module's first part.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = package or module.partition(".")[0]
        raise DependencyError(
            f"{feature} needs the package {name!r}: pip install 'chargaff[{extra}]' ({error})"
        ) from error
