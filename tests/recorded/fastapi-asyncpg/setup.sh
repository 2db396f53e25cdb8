. ../shared/setup-python.sh
