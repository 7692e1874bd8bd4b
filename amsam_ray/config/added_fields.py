"""Fields that were added to a stored model later are left out where they hold their default.

Fingerprints of trials and hashes of space files are computed over what a model dumps. With added fields left out at
their defaults, both keep their values, and sweeps that were begun before the field existed continue.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import SerializerFunctionWrapHandler, model_serializer

from amsam_ray.config.plain_values import PlainModel


class WithAddedFields(PlainModel):
    """A model whose ``ADDED`` fields are not dumped while they hold their defaults."""

    ADDED: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = dump(self)
        fields = type(self).model_fields
        unset = {
            name for name in self.ADDED if getattr(self, name) == fields[name].get_default(call_default_factory=True)
        }
        return {name: value for name, value in data.items() if name not in unset}
