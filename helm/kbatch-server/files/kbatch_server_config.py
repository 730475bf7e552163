"""The configuration of kbatch-server in its pod: the chart's own, then what the values say."""

import json
from pathlib import Path

HERE = Path(__file__).parent

c = get_config()  # noqa: F821

# config: {JobConfig: {max_cpu_limit: 8}} is c.JobConfig.max_cpu_limit = 8
for section, traits in json.loads((HERE / "values.json").read_text()).items():
    for name, value in traits.items():
        setattr(c[section], name, value)

# extraConfig: in the order of the names
for path in sorted(HERE.glob("extra-*.py")):
    exec(compile(path.read_text(), path, "exec"))  # noqa: S102
