"""What providers are written against; see `flow.model`."""

from durable_agent.flow.model import ChatModel, Finish, Listener, Message, Reply, Request, ToolCall, ToolSpec, Usage

__all__ = ["ChatModel", "Finish", "Listener", "Message", "Reply", "Request", "ToolCall", "ToolSpec", "Usage"]
