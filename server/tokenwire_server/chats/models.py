"""Which models a caller may call, and what it may learn about the others."""

from __future__ import annotations

from ..errors import PermissionDenied, TokenwireError, UnknownModel
from ..providers.base import Route
from ..tenants.caller import Caller


def may_call(caller: Caller, model: str, route: Route) -> bool:
    """Return whether a caller may call a model on a route, by the name it used or by the provider's name."""
    return caller.may_call(model, str(route))


def check_may_call(caller: Caller, model: str, route: Route) -> None:
    """Check that a caller may call a model on a route. Raises PermissionDenied."""
    if not may_call(caller, model, route):
        raise PermissionDenied(model)


def as_seen_by(caller: Caller, refusal: TokenwireError) -> TokenwireError:
    """Return a refusal without the names of models that the caller may not call."""
    if not isinstance(refusal, UnknownModel | PermissionDenied):
        return refusal
    if not caller.may_call(refusal.model):
        return PermissionDenied(refusal.model)
    if isinstance(refusal, PermissionDenied):
        return refusal
    return UnknownModel(
        refusal.model,
        why=refusal.why,
        nearest=[name for name in refusal.nearest if caller.may_call(name)],
    )
