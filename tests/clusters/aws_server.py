"""moto_server with two properties of EC2 that it lacks: ``python -m tests.clusters.aws_server``, with its arguments.

EC2 starts as many instances as it has, up to ``MaxCount``; moto starts ``MinCount``. And EC2 may have no machine of a
type left: it has none of the types in ``NO_CAPACITY``, separated by commas.
"""

from __future__ import annotations

import os
from typing import Any

from moto.ec2.exceptions import EC2ClientError
from moto.ec2.responses.instances import InstanceResponse
from moto.server import main


class InsufficientInstanceCapacity(EC2ClientError):
    """What EC2 answers when it has no machine of a type."""

    code = "InsufficientInstanceCapacity"
    message = "We currently do not have sufficient capacity in the Availability Zone you requested."


class _Instances(InstanceResponse):
    def _get_param(self, param_name: str, if_none: Any = None) -> Any:
        return super()._get_param("MaxCount" if param_name == "MinCount" else param_name, if_none)

    def run_instances(self) -> Any:
        if self._get_param("InstanceType") in os.environ.get("NO_CAPACITY", "").split(","):
            raise InsufficientInstanceCapacity
        return super().run_instances()


if __name__ == "__main__":
    from moto.ec2 import responses

    responses.EC2Response.__bases__ = tuple(
        _Instances if base is InstanceResponse else base for base in responses.EC2Response.__bases__
    )
    main()
