"""For the API's pages: what blocking facades and front doors take over from other classes is shown as methods.

`enqueue = blocking(AsyncOmniQ.enqueue)` is an attribute to whoever reads the source. Here it becomes the method that it
names, with its signature and its docstring; a blocking one isn't async.
"""

from __future__ import annotations

import ast
from typing import Any, Final

import griffe

TAKES_OVER: Final = {"blocking": True, "Delegated": False}
"""What wraps a method, and whether the method is blocking then."""


class Facades(griffe.Extension):
    """Turns wrapped methods into methods, once everything is loaded."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        """A package, and all its modules, are there."""
        for module in _modules(pkg):
            for owner in list(module.classes.values()):
                if not owner.is_alias:
                    for name, member in list(owner.members.items()):
                        if (function := _method(member)) is not None:
                            owner.set_member(name, function)


def _modules(package: griffe.Module) -> list[griffe.Module]:
    inner = [module for module in package.modules.values() if not module.is_alias]
    return [package, *(found for module in inner for found in _modules(module))]


def _method(member: griffe.Object | griffe.Alias) -> griffe.Function | None:
    """The function that an attribute wraps; None for anything else."""
    if member.is_alias or not isinstance(member, griffe.Attribute) or member.value is None:
        return None
    call = ast.parse(str(member.value), mode="eval").body
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in TAKES_OVER):
        return None
    named = call.args[0]
    assert isinstance(named, ast.Attribute), f"{member.path} wraps what has no name"
    function = _function(member, named)
    labels = function.labels - {"async"} if TAKES_OVER[call.func.id] else function.labels
    copy = griffe.Function(
        member.name,
        lineno=member.lineno,
        endlineno=member.endlineno,
        parameters=function.parameters,
        returns=function.returns,
        docstring=function.docstring,
    )
    copy.labels = labels
    return copy


def _function(member: griffe.Attribute, named: ast.Attribute) -> griffe.Function:
    """The method that `named`, as `AsyncOmniQ.enqueue`, is in the attribute's module, whoever else takes it over."""
    owner = member.parent
    assert owner is not None
    path = owner.resolve(ast.unparse(named.value))
    found = member.modules_collection[path].members.get(named.attr) or member.modules_collection[path][named.attr]
    if isinstance(found, griffe.Alias):  # the method is inherited
        found = found.final_target
    function = found if isinstance(found, griffe.Function) else _method(found)
    assert function is not None, f"{member.path} wraps {path}.{named.attr}, which is no method"
    return function
