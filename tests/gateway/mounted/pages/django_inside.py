"""An existing Django project below /legacy."""

from __future__ import annotations

from tests.gateway.mounted.in_django import django

mounts = {"/legacy": django}
