"""Everyday prompts for the cost curve: in no training set, no probe set, and no search for a recipe.

They were written before any of them was placed or answered. Of forty the first 24 are left, for time alone.
"""

from __future__ import annotations

PROMPTS = (
    "What is a good way to organise a bookshelf?",
    "How do I make hummus from scratch?",
    "How can I make a birthday card by hand?",
    "Why is the sea salty?",
    "What are some fun games for a rainy afternoon with children?",
    "How do I choose a ripe melon?",
    "Who looks after my plants while I am on holiday?",
    "What should I know before visiting Japan for the first time?",
    "How do I write a fair review of a restaurant?",
    "How does a microwave oven heat food?",
    "How do I start a vegetable garden?",
    "Can you suggest a warm-up before a game of tennis?",
    "How do I clean white trainers?",
    "What is the difference between a crocodile and an alligator?",
    "How can I become a better listener?",
    "How do I plan a surprise party for my sister?",
    "Which herbs go well with fish?",
    "How do I make a paper aeroplane that flies far?",
    "How do I get my garden ready for winter?",
    "Why do we yawn?",
    "How can I learn the names of the constellations?",
    "How do I write a cover letter?",
    "What is a good breakfast before a long walk?",
    "How do I store coffee beans?",
)
