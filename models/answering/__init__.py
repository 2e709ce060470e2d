"""Answers for people who have a CT and a question: text, confidences, masks by name, chats."""
