"""The part of KubeRay's resources that `clusters/kuberay.yaml` uses: which fields exist, and which are required.

Written after the Go types of KubeRay 1.6, `raycluster_types.go` and `rayjob_types.go` in `ray-operator/apis/ray/v1`: a
field without `omitempty` is required. For pods, after the Kubernetes API reference, `PodSpec` and `Container`. A field
that exists and is not listed here is added when a manifest first uses it.
"""

from __future__ import annotations

from typing import Any

import jsonschema


def _object(required: str = "", **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


def _list(items: dict[str, Any], least: int = 0) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least}


_TEXT = {"type": "string", "minLength": 1}
_COUNT = {"type": "integer", "minimum": 0}
_BOOL = {"type": "boolean"}
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_METADATA = _object("name", name=_TEXT, labels=_TEXTS, annotations=_TEXTS)

_VOLUME = _object(
    "name",
    name=_TEXT,
    configMap=_object("name", name=_TEXT, optional=_BOOL),
    emptyDir=_object(medium=_TEXT, sizeLimit=_TEXT),
)
_RESOURCES = _object(requests=_TEXTS, limits=_TEXTS)
_CONTAINER = _object(
    "name image",
    name=_TEXT,
    image=_TEXT,
    env=_list(_object("name", name=_TEXT, value={"type": "string"})),
    envFrom=_list(_object("secretRef", secretRef=_object("name", name=_TEXT, optional=_BOOL))),
    resources=_RESOURCES,
    volumeMounts=_list(_object("name mountPath", name=_TEXT, mountPath=_TEXT, subPath=_TEXT)),
)
_POD = _object(
    "spec",
    metadata=_object(labels=_TEXTS, annotations=_TEXTS),
    spec=_object("containers", serviceAccountName=_TEXT, containers=_list(_CONTAINER, least=1), volumes=_list(_VOLUME)),
)

_CLUSTER = _object(
    "headGroupSpec",
    rayVersion=_TEXT,
    authOptions=_object("mode", mode={"enum": ["disabled", "token"]}, secretName=_TEXT),
    enableInTreeAutoscaling=_BOOL,
    autoscalerOptions=_object(
        version={"enum": ["v1", "v2"]},
        idleTimeoutSeconds=_COUNT,
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
    ),
    headGroupSpec=_object(
        "rayStartParams template",
        serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
        rayStartParams=_TEXTS,
        template=_POD,
    ),
    workerGroupSpecs=_list(
        _object(
            "groupName minReplicas maxReplicas rayStartParams template",
            groupName=_TEXT,
            replicas=_COUNT,
            minReplicas=_COUNT,
            maxReplicas=_COUNT,
            rayStartParams=_TEXTS,
            template=_POD,
        )
    ),
)
_JOB = _object(
    "entrypoint rayClusterSpec",  # both are optional in the API; a job without them runs nothing, or nowhere
    entrypoint=_TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
    backoffLimit=_COUNT,
    shutdownAfterJobFinishes=_BOOL,
    ttlSecondsAfterFinished=_COUNT,
    rayClusterSpec=_CLUSTER,
)

_RESOURCE_KINDS = {
    ("v1", "ServiceAccount"): {},
    ("v1", "ConfigMap"): {"data": _TEXTS},
    ("ray.io/v1", "RayCluster"): {"spec": _CLUSTER},
    ("ray.io/v1", "RayJob"): {"spec": _JOB},
}


def problems(manifest: dict[str, Any]) -> list[str]:
    """Return what is wrong with one Kubernetes manifest, each with the place."""
    kind = manifest.get("apiVersion"), manifest.get("kind")
    if kind not in _RESOURCE_KINDS:
        return [f"apiVersion, kind: {kind} is not one of {sorted(_RESOURCE_KINDS)}"]
    content = _RESOURCE_KINDS[kind]
    schema = _object(
        " ".join(["apiVersion kind metadata", *content]), apiVersion=_TEXT, kind=_TEXT, metadata=_METADATA, **content
    )
    return [
        error.json_path + ": " + error.message
        for error in jsonschema.Draft202012Validator(schema).iter_errors(manifest)
    ]
