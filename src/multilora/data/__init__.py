"""From a task's rows to token ids and their order: example → tasks → encoding → mixture."""
