import asyncio,time,sys
from demos.shape_classifier.__main__ import *
async def go(pop,lr,mb,steps,sigma,seed=0,**k):
    system=ShapeClassifier(seed=seed)
    system.system_optimizer = ESHybridSystemOptimizer(steps=steps, pop_size=pop, sigma=sigma, lr=lr,**k)
    r=await system.optimize(draw_examples(900,seed=1),CrossEntropy(),draw_examples(180,seed=2),minibatch=mb,validate_every=25,seed=seed)
    a=await system.evaluate(TEST, Accuracy())
    print(pop,lr,mb,steps,sigma,'val',[round(g.center,2) for g in r.history if g.center==g.center][::2],'acc',round(a,3),round(r.seconds,1),round(r.runs_per_second/1e3),flush=True)
asyncio.run(go(64,.2,45,300,.1,0))
asyncio.run(go(64,.2,45,300,.1,1))
asyncio.run(go(64,.2,45,300,.1,2))
asyncio.run(go(64,.2,45,300,.1,3))
