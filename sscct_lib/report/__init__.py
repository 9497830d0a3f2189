"""One scan, one page; and a scan that was never in the study."""
