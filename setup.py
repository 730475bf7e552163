"""Describe the package kbatch-server: what it needs, what it installs, what others may plug in."""

import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = re.search(r'__version__ = "(.+)"', (here / "kbatch_server/__init__.py").read_text())[1]

setup(
    name="kbatch-server",
    version=version,
    description="A JupyterHub service that runs a hub user's code as a batch job on Kubernetes",
    long_description=(here / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="BSD-3-Clause",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["kbatch_server", "kbatch_server.*"]),
    include_package_data=True,
    install_requires=[
        "alembic>=1.13",
        "cryptography>=42",
        "itsdangerous>=2.2",
        "jinja2>=3.1",
        "jupyterhub>=5",
        "kubernetes>=37",  # the first with kubernetes.aio
        "prometheus_client>=0.20",
        "pydantic>=2.10",
        "python-json-logger>=3.2",
        "python-dotenv>=1.0",
        "python-multipart>=0.0.18",
        "sqlalchemy>=2.0.43",
        "tornado>=6.5",
        "traitlets>=5.14",
        "uvloop>=0.21",
    ],
    extras_require={
        "azure": ["azure-storage-blob>=12.24", "azure-identity>=1.17", "aiohttp>=3.10"],
        "gcs": ["obstore>=0.9"],
        "s3": ["obstore>=0.9"],
        "postgresql": ["psycopg[binary]>=3.2"],
    },
    entry_points={
        "console_scripts": ["kbatch-server = kbatch_server.app:main"],
        "kbatch_server.launchers": [
            "kubernetes = kbatch_server.launchers.kube:KubeJobLauncher",
            "local = kbatch_server.launchers.local:LocalProcessJobLauncher",
        ],
        "kbatch_server.storages": [
            "file = kbatch_server.storage.local:FileStorage",
            "azure = kbatch_server.storage.azure:AzureBlobStorage",
            "s3 = kbatch_server.storage.objectstore:S3Storage",
            "gcs = kbatch_server.storage.objectstore:GCSStorage",
        ],
    },
    classifiers=[
        "Framework :: Jupyter :: JupyterHub",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
    ],
)
