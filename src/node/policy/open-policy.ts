/** Puts the policy of a node with a worker to work: sensors, what it decides, and what follows for its builds. */
import type { Logger } from 'pino'
import type { Clock } from '../../base/clock.ts'
import { plural } from '../../base/units.ts'
import type { Worker } from '../../build/worker.ts'
import type { Config } from '../config/config.ts'
import type { Offer } from '../offer.ts'
import type { Sessions } from '../worker-session.ts'
import { PolicyKeeper } from './keeper.ts'
import { openSensors } from './sensors/sensors.ts'
import { Slots } from './slots.ts'

/** What the start-up banner says of it: nothing where all of the machine is for builds at all times. */
export function describePolicy(keeper: PolicyKeeper | undefined): string[] {
  if (keeper === undefined) return []
  const { name, cpus, of, reason, untilWall } = keeper.note
  if (name === 'dedicated' && untilWall === undefined) return []
  return [`policy ${name}: ${cpus} of ${plural(of, 'cpu')} now: ${reason}`]
}

/** The machine has been looked at once when it resolves, so that nothing is offered before. */
export async function openPolicy(
  deps: {
    readonly clock: Clock
    readonly log: Logger
    readonly sessions: Sessions
    readonly offer: Offer
    readonly worker: Worker
  },
  config: Pick<Config, 'policy' | 'machineRoot'>,
  stack: AsyncDisposableStack,
): Promise<void> {
  const { clock, sessions, offer, worker } = deps
  const keeper = stack.use(
    new PolicyKeeper(
      {
        clock,
        log: deps.log.child({ component: 'policy' }),
        read: openSensors(
          { clock, beside: () => sessions.slots?.pids ?? [] },
          { root: config.machineRoot },
        ),
        machine: () => offer.capacity,
        onChange: () => {
          sessions.slots?.refresh()
          sessions.changed()
        },
      },
      config.policy,
    ),
  )
  sessions.policy = keeper
  await keeper.start()
  sessions.slots = new Slots({ keeper, offer, worker, onChange: () => sessions.changed() })
}
