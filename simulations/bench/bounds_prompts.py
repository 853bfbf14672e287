"""Everyday prompts for the cost curve: in no training set, no probe set, and no search for a recipe.

They were written before any of them was placed or answered, and none was taken out afterwards.
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
    "What is the nicest way to spend a Sunday in the city?",
    "How do I teach my grandmother to use video calls?",
    "What makes a team meeting worth the time?",
    "How do I take care of leather boots?",
    "How do volcanoes form?",
    "How can I get better at chess?",
    "What can I do with too many courgettes?",
    "How do I arrange flowers in a vase?",
    "How do I back up the files on my laptop?",
    "Why do some people sneeze in bright light?",
    "How can I make my way to work more pleasant?",
    "How do I build a sandcastle that lasts?",
    "What should I write in a farewell card to a colleague?",
    "Which paint brushes do I need for acrylics?",
    "How do I keep my kitchen sponge from smelling?",
    "Tell me about the history of the umbrella.",
)
