"""placeholder until the room lands"""

from hyperfunc.population.sequential import run_sequential


async def run_gathered(program, block, inputs, *, settings):
    return await run_sequential(program, block, inputs)
