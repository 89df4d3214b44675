"""What agents can do with a server: tools as data, each of them requests, and an MCP server that has them."""
