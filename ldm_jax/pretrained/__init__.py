"""Published weights in and out: files, downloads, names and layouts of other projects."""
