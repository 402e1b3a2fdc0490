"""Reading video files: open_video, decoding backends, containers, colour and limits."""
