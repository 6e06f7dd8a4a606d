"""The two clients offer the same methods with the same arguments."""

import inspect

from hybrid_infer import AsyncHybridClient, HybridClient


def public(kind):
    return {
        name: member
        for name, member in vars(kind).items()
        if inspect.isfunction(member) and not name.startswith("_")
    }


def test_signatures_are_equal():
    sync, async_ = public(HybridClient), public(AsyncHybridClient)
    assert sync.keys() == async_.keys()
    for name in sync:
        mine = inspect.signature(sync[name]).parameters
        theirs = inspect.signature(async_[name]).parameters
        assert list(mine) == list(theirs), name
        for parameter in mine:
            assert mine[parameter].default == theirs[parameter].default, (name, parameter)
            assert mine[parameter].kind == theirs[parameter].kind, (name, parameter)
    assert (
        inspect.signature(HybridClient.__init__).parameters.keys()
        == inspect.signature(AsyncHybridClient.__init__).parameters.keys()
    )


def test_calls_are_awaited_and_looks_are_not():
    looks = {"list_models", "status", "reset"}
    for name, member in public(AsyncHybridClient).items():
        assert inspect.iscoroutinefunction(member) == (name not in looks), name
