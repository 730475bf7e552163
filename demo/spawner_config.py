"""What a hub with KubeSpawner has in its configuration: the demo's jobs have the same profiles."""

c = get_config()  # noqa: F821

c.KubeSpawner.profile_list = [
    {
        "display_name": "Small",
        "description": "For a first try",
        "kubespawner_override": {"cpu_limit": 1, "mem_limit": "1G"},
    },
    {
        "display_name": "Simulation",
        "description": "With a size and a number of threads to choose",
        "profile_options": {
            "size": {
                "display_name": "Size",
                "choices": {
                    "medium": {
                        "display_name": "2 CPUs, 2 GiB",
                        "kubespawner_override": {"cpu_limit": 2, "mem_limit": "2G"},
                    },
                    "large": {
                        "display_name": "4 CPUs, 8 GiB",
                        "kubespawner_override": {"cpu_limit": 4, "mem_limit": "8G"},
                    },
                },
            },
            "threads": {
                "display_name": "Threads",
                "choices": {"one": {"display_name": "One"}},
                "unlisted_choice": {
                    "enabled": True,
                    "display_name": "Number of threads",
                    "validation_regex": "[1-9][0-9]?",
                    "validation_message": "A number from 1 to 99.",
                    "kubespawner_override": {"environment": {"OMP_NUM_THREADS": "{value}"}},
                },
            },
        },
    },
]
