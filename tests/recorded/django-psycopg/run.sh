export DJANGO_SETTINGS_MODULE=blog
exec .venv/bin/opentelemetry-instrument .venv/bin/python blog.py runserver --noreload "127.0.0.1:$PORT"
