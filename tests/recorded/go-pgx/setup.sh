. ../shared/setup-go.sh
