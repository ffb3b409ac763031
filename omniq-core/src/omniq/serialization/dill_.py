"""The fallback serializer. Reading its bytes is running code: only ever do it with bytes that can be trusted."""

from __future__ import annotations

import pickle
from typing import Any

from omniq.errors import CorruptPayload, SerializationError
from omniq.serialization.base import Format, Serializer, type_name


class DillSerializer(Serializer):
    """Carries nearly every Python object: closures, lambdas, local classes, what `__main__` defines, …

    dill is imported when it is first needed, not with this module.
    """

    format = Format.DILL

    def dumps(self, value: object) -> bytes:
        from omniq.serialization.dill_pickler import dumps

        try:
            return dumps(value)
        except RecursionError as error:
            raise SerializationError(f"can't serialize {type_name(value)}: it is nested too deeply") from error
        except Exception as error:  # the value's own `__reduce__` may raise anything
            advice = "pass what it can be rebuilt from (an id, a path, plain data), or define it in a module"
            raise SerializationError(f"can't serialize {type_name(value)}: {error}; {advice}") from error

    def loads(self, data: bytes) -> Any:
        import dill

        try:
            return dill.loads(data)
        except (pickle.UnpicklingError, EOFError) as error:
            raise CorruptPayload(f"these bytes aren't a value that dill wrote: {error}") from error
        except (Exception, SystemExit) as error:  # the value's own `__setstate__` may raise anything
            raise SerializationError(f"can't rebuild a value here: {type(error).__name__}: {error}") from error
