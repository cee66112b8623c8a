"""From YAML files to a table: config -> plan -> run -> results -> summary."""
