"""What can go wrong, by whose promise was broken.

Every message reads `where: what was promised, what came; what to do`.
"""


class TamisError(Exception):
    """Parent of every error that tamis raises about its own promises."""


class SpecError(TamisError):
    """A stages.yaml file, or an option in it, is not what it must be; carries `file:line`."""


class ColumnError(TamisError):
    """A column is missing, has another type, or is used before it exists."""


class ContractError(TamisError):
    """A component or a document source did not deliver what it declared."""


class LedgerError(TamisError):
    """A run directory's books do not balance, or do not fit the run that wants to go on with them."""


class RunFailedError(TamisError):
    """Some work failed after its retries, or too many documents are bad; everything else is done and kept."""


class MissingExtraError(TamisError):
    """An optional dependency is needed and not installed; the message names the extra that brings it."""


def missing_extra(package: str, extra: str, needed_by: str) -> MissingExtraError:
    """The one wording for an optional dependency that is not installed."""
    return MissingExtraError(
        f"{needed_by}: needs the package {package!r}, which is not installed; pip install 'tamis[{extra}]'"
    )
