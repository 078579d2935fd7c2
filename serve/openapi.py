"""The description of the endpoints, as OpenAPI 3.1; the page /docs shows it."""

from cifar_jax.types import Row
from serve import networks, uploads

_STRING, _NUMBER, _BOOLEAN = {"type": "string"}, {"type": "number"}, {"type": "boolean"}
_INTEGER = {"type": "integer"}


def _object(**properties: Row) -> Row:
  return {"type": "object", "properties": properties, "required": list(properties)}


def _array(items: Row) -> Row:
  return {"type": "array", "items": items}


_RANKED = _object(**{"class": _STRING, "probability": _NUMBER})
_PREDICTION = _object(
  **{
    "run": _STRING,
    "class": _STRING,
    "probability": _NUMBER,
    "top5": _array(_RANKED),
    "normalized_entropy": _NUMBER,
    "probably_none_of_the_classes": _BOOLEAN,
  }
)
_PREDICTIONS = _object(
  runs=_array(_object(name=_STRING, path=_STRING, seed=_INTEGER, step=_INTEGER)),
  thresholds=_object(min_probability=_NUMBER, max_entropy=_NUMBER),
  images=_array(_object(file=_STRING, predictions=_array(_PREDICTION))),
  skipped=_array(_object(file=_STRING, reason=_STRING)),
)
_ERROR = _object(error=_STRING)
_ERRORS = {
  "400": "A field is missing or wrong.",
  "404": "No run has this name.",
  "408": f"The request took more than {uploads.MAX_SECONDS:.0f} s to arrive.",
  "413": f"The request is larger than {uploads.MAX_BYTES >> 20} MiB.",
  "422": "The run or the photo cannot be used; the message says why.",
  "503": "The server is busy. Repeat the request after the seconds in Retry-After.",
}


def _answers(description: str, content: Row, *codes: str) -> Row:
  """Return the answers of an operation: the successful one, then errors by code."""
  failures = {
    code: {
      "description": _ERRORS[code],
      "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    for code in codes
  }
  return {"200": {"description": description, "content": content}, **failures}


def _json(schema: Row) -> Row:
  return {"application/json": {"schema": schema}}


def _get(summary: str, answers: Row, **parameters: str) -> Row:
  return {
    "get": {
      "summary": summary,
      "parameters": [
        {
          "name": name,
          "in": "query",
          "required": name != "after",
          "description": description,
          "schema": _INTEGER if name == "after" else _STRING,
        }
        for name, description in parameters.items()
      ],
      "responses": answers,
    }
  }


def _post(summary: str, description: str, fields: Row, required: list[str], answers: Row) -> Row:
  schema = {"type": "object", "properties": fields, "required": required}
  return {
    "post": {
      "summary": summary,
      "description": description,
      "requestBody": {
        "required": True,
        "content": {"multipart/form-data": {"schema": schema}},
      },
      "responses": answers,
    }
  }


def describe() -> Row:
  """Return the content of /openapi.json."""
  file = {"type": "string", "contentMediaType": "application/octet-stream"}
  run = "The name of a run, as /runs lists it."
  png = {"image/png": {"schema": file}}
  return {
    "openapi": "3.1.0",
    "info": {
      "title": "Trained networks",
      "version": "1",
      "description": (
        "Classify photos, and read the runs that the networks come from. A server that other "
        "machines can reach requires its token: Authorization: Bearer TOKEN."
      ),
    },
    "paths": {
      "/predict": _post(
        "Classify photos",
        f"At most {uploads.MAX_PHOTOS} photos and {uploads.MAX_BYTES >> 20} MiB. The answer has "
        "the fields of --mode=predict --json. Photos that cannot be read are in 'skipped'.",
        {
          "images": _array(file) | {"description": "JPEG, PNG, WebP, GIF, BMP, TIFF or PPM."},
          "runs": _array(_STRING)
          | {
            "description": f"Names of runs, at most {networks.MAX_NETWORKS}; may be left out if "
            "there is only one run."
          },
        },
        ["images"],
        _answers(
          "The classes of every photo by every network.",
          _json({"$ref": "#/components/schemas/Predictions"}),
          *_ERRORS,
        ),
      ),
      "/grad_cam": _post(
        "Show where a network has evidence for a class",
        "Grad-CAM over the photo as the network sees it.",
        {
          "images": file | {"description": "One photo."},
          "runs": _STRING | {"description": run},
          "class": _STRING | {"description": "A class; the predicted one if it is left out."},
        },
        ["images", "runs"],
        _answers("A picture.", png, *_ERRORS),
      ),
      "/runs": _get(
        "List all runs",
        _answers("Their states and main figures.", _json(_object(runs=_array({"type": "object"})))),
      ),
      "/run": _get(
        "Show a run's config, results and pictures",
        _answers("The run.", _json({"type": "object"}), "404", "422"),
        run=run,
      ),
      "/metrics": _get(
        "List a run's metrics by epoch",
        _answers(
          "One object for each epoch.",
          _json(_object(rows=_array({"type": "object"}))),
          "404",
          "422",
        ),
        run=run,
        after="Skip this number of epochs.",
      ),
      "/figure": _get(
        "Fetch a picture of a run",
        _answers("The picture.", png, "404"),
        run=run,
        name="A name from 'figures' of /run.",
      ),
      "/report": _get(
        "Fetch the report of a run",
        _answers("The page.", {"text/html": {"schema": _STRING}}, "404"),
        run=run,
      ),
    },
    "components": {"schemas": {"Predictions": _PREDICTIONS, "Error": _ERROR}},
  }
