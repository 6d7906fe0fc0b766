"""The command line: parse, one library call, show. The only place that knows terminals."""
