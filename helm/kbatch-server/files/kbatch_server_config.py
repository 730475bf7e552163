"""The configuration of kbatch-server in its pod: the chart's own, then what the values say."""

import json
from pathlib import Path

HERE = Path(__file__).parent

c = get_config()  # noqa: F821

# config: {JobConfig: {max_cpu_limit: 8}} is c.JobConfig.max_cpu_limit = 8
for section, traits in json.loads((HERE / "values.json").read_text()).items():
    for name, value in traits.items():
        setattr(c[section], name, value)

extra = HERE / "extra_config.py"
exec(compile(extra.read_text(), extra, "exec"))  # noqa: S102
