#!/usr/bin/env python3
"""Checks the fields of a Kubernetes manifest against the API's schema, strictly: no field that is not there.

    .venv/bin/python scripts/check_job.py scripts/cluster/kubernetes/embed-job.yaml
"""
import sys

import kubernetes_validate
import yaml

with open(sys.argv[1]) as file:
    documents = list(yaml.safe_load_all(file))
for document in documents:
    try:
        kubernetes_validate.validate(document, "1.37", strict=True)
    except kubernetes_validate.ValidationError as e:
        sys.exit(f"{sys.argv[1]}: {document.get('kind')}: {e}")
print(f"{len(documents)} valid")
