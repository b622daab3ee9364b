"""What a call of a task must look like, by the signature of its function."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

from greenworker.errors import DeclarationError


def sent_signature(function: Callable[..., Any], name: str, bind: bool) -> inspect.Signature:
    """What a sender gives; raises DeclarationError."""
    signature = inspect.signature(function)
    if not bind:
        return signature
    parameters = list(signature.parameters.values())
    if not parameters:
        raise DeclarationError(
            f"{name}: bind=True passes current_task() as the first argument: take one"
        )
    return signature.replace(parameters=parameters[1:])


def plain_arity(signature: inspect.Signature) -> tuple[int, float]:
    """How many positional arguments certainly fit; binding a signature costs ten times a look at this."""
    few, most = 0, 0.0
    for parameter in signature.parameters.values():
        required = parameter.default is inspect.Parameter.empty
        match parameter.kind:
            case inspect.Parameter.POSITIONAL_ONLY | inspect.Parameter.POSITIONAL_OR_KEYWORD:
                few += required
                most += 1
            case inspect.Parameter.VAR_POSITIONAL:
                most = math.inf
            case inspect.Parameter.KEYWORD_ONLY if required:
                return 1, 0.0
    return few, most
