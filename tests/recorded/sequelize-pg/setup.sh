. ../shared/setup-node.sh
