"""The command line: `hpa-ray VERB [--config FILE | --recipe NAME] [key=value ...]`."""
