"""Reads and writes one video: exact frames with their times, or a VideoError that names the file.

A video is a file (.mp4, .webm, .gif, ...), a folder of image frames, or a .npy array. Files are
read through imageio's PyAV plugin and written by imageio-ffmpeg, images are read by Pillow. PyAV is
used directly only for what the plugin does not expose: timestamps, orientation and damage.

Frames have the pixels that are stored, square or not (`VideoInfo.pixel_aspect`): models see frames
of one given (height, width), into which every frame is resized as a whole.
"""

from vvae.video.errors import FrameTooLargeError, VideoError
from vvae.video.frames import MAX_PIXELS, NOMINAL_FPS
from vvae.video.reading import (
    VIDEO_SUFFIXES,
    VideoInfo,
    is_video,
    iterate_frames,
    probe,
    read_frames,
    read_pixel_aspect,
    read_stated_length,
)
from vvae.video.stills import IMAGE_SUFFIXES
from vvae.video.writing import write_short_videos, write_video, write_video_pieces

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "NOMINAL_FPS",
    "VIDEO_SUFFIXES",
    "FrameTooLargeError",
    "VideoError",
    "VideoInfo",
    "is_video",
    "iterate_frames",
    "probe",
    "read_frames",
    "read_pixel_aspect",
    "read_stated_length",
    "write_short_videos",
    "write_video",
    "write_video_pieces",
]
