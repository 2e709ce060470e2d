"""Questions about a CT of head and neck whose truth is measured in contours and voxels."""
