"""Seeing, without ROS: decoding, letterboxing, judging what arrives, picking synchronised sets, devices and files."""

from pi_policy_node.vision.bridge import check_message, decode_message, find_cv_bridge
from pi_policy_node.vision.decode import (ENCODINGS, ImageError, check_image, decode_compressed, decode_image,
                                          encode_jpeg)
from pi_policy_node.vision.eye import Eye, Picture
from pi_policy_node.vision.letterbox import fit, letterbox
from pi_policy_node.vision.picker import Frame, ImageSet, Samples, SetPicker
from pi_policy_node.vision.video import VideoSource
from pi_policy_node.vision.watch import CameraWatch

__all__ = ["ENCODINGS", "CameraWatch", "Eye", "Frame", "ImageError", "ImageSet", "Picture", "Samples", "SetPicker",
           "VideoSource", "check_image", "check_message", "decode_compressed", "decode_image", "decode_message",
           "encode_jpeg", "find_cv_bridge", "fit", "letterbox"]
