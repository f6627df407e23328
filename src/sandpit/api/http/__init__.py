"""Requests and answers: connections, bodies, fields, routes."""
