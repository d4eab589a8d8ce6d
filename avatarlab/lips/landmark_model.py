"""An optional landmark model: the face mesh of MediaPipe (Apache-2.0), where a version that carries its weights is
installed (0.10.21 or older; later ones want a model file of their own).

Kartynnik et al., "Real-time Facial Surface Geometry from Monocular Video on Mobile GPUs", CVPR workshop 2019. Faces are
found by its full-range detector; the mesh is then laid into each face's own square, so that small faces in large
pictures have as many pixels as large ones. Nothing here is imported, and nothing costs time, until a face is looked for.
"""

import functools
import importlib.util
import os
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

# Vertices of the mesh beside the 68 iBUG points: jaw, brows, nose, eyes, outer lips, inner lips
MESH_68 = np.array(
    [127, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 356]
    + [70, 63, 105, 66, 107, 336, 296, 334, 293, 300]
    + [168, 197, 5, 4, 98, 97, 2, 326, 327]
    + [33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380]
    + [61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91]
    + [78, 82, 13, 312, 308, 317, 14, 87]
)
SURE = 0.5  # least score of a face and of a mesh
_AROUND = 1.6  # sides of a face's box that the mesh looks at
_MESH_PX = 384


@functools.cache
def installed() -> str:
    """The version of a MediaPipe that carries the mesh and its weights, or "" without one; nothing is imported."""
    try:
        spec = importlib.util.find_spec("mediapipe")
        version = metadata.version("mediapipe")
    except (ImportError, ValueError, metadata.PackageNotFoundError):
        return ""
    if spec is None or spec.origin is None:
        return ""
    folder = Path(spec.origin).parent
    parts = ("python/solutions/face_mesh.py", "modules/face_landmark/face_landmark_with_attention.tflite")
    return version if all((folder / part).is_file() for part in parts) else ""


def find_boxes(image: UInt8[np.ndarray, "h w 3"]) -> list[tuple[int, int, int, int]]:
    """Left, top, width and height of every face, in pixels."""
    height, width = image.shape[:2]
    boxes = []
    for seen in _detector().process(image).detections or ():
        box = seen.location_data.relative_bounding_box
        sides = (box.xmin * width, box.ymin * height, box.width * width, box.height * height)
        boxes.append((round(sides[0]), round(sides[1]), round(sides[2]), round(sides[3])))
    return boxes


def find_mesh(image: UInt8[np.ndarray, "h w 3"], box: tuple[int, int, int, int]) -> Float32[np.ndarray, "68 3"] | None:
    """The 68 iBUG points of the face in `box` in pixels, with their depth, which grows towards us; or None."""
    x, y, width, height = box
    side = _AROUND * max(width, height)
    scale = _MESH_PX / side
    left, top = x + width / 2 - side / 2, y + height / 2 - side / 2
    to_crop = np.array([[scale, 0, -left * scale], [0, scale, -top * scale]])
    smooth = cv2.GaussianBlur(image, (0, 0), 0.4 / scale) if scale < 0.7 else image
    crop = cv2.warpAffine(smooth, to_crop, (_MESH_PX, _MESH_PX), borderMode=cv2.BORDER_REPLICATE)
    meshes = _mesh().process(crop).multi_face_landmarks
    if not meshes:
        return None
    points = np.array([[point.x, point.y, -point.z] for point in meshes[0].landmark], np.float64)[MESH_68] * side
    return (points + [left - 0.5, top - 0.5, 0]).astype(np.float32)  # integers name pixel centres


@functools.cache
def _detector() -> Any:
    _quiet()
    from mediapipe.python.solutions import face_detection

    return face_detection.FaceDetection(model_selection=1, min_detection_confidence=SURE)


@functools.cache
def _mesh() -> Any:
    _quiet()
    from mediapipe.python.solutions import face_mesh

    # frame by frame: what is found in one does not depend on the frames before it
    return face_mesh.FaceMesh(
        static_image_mode=True, max_num_faces=1, refine_landmarks=True, min_detection_confidence=SURE
    )


def _quiet() -> None:
    os.environ.setdefault("GLOG_minloglevel", "2")  # its graphs report their inner life on stderr
