"""One adapter a package: functions of CHECK.md that call it. The first word of each docstring is its distribution."""
