import asyncio
from demos.shape_classifier.__main__ import *
async def go(steps,seed,lr,pop=64,mb=45):
    system=ShapeClassifier(seed=seed)
    system.system_optimizer = ESHybridSystemOptimizer(steps=steps, pop_size=pop, sigma=0.1, lr=lr)
    r=await system.optimize(draw_examples(900,seed=1),CrossEntropy(),draw_examples(180,seed=2),minibatch=mb,validate_every=10,seed=seed)
    a=await system.evaluate(TEST, Accuracy())
    print(steps,seed,lr,pop,mb,'acc',round(a,3),round(r.seconds,1),round(r.runs_per_second/1e3),flush=True)
for s in range(5): asyncio.run(go(500,s,.2))
