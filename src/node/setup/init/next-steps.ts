/** What remains to be done after a configuration was written. */
import type { Place } from '../machine.ts'
import { quoted } from './equivalent-command.ts'

export interface NextStep {
  readonly what: string
  /** Of a shell, or a sentence where there is no command. */
  readonly command: string
}

export function nextSteps(
  place: Place,
  options: {
    /** Undefined where the daemon finds it by itself. */
    readonly config: string | undefined
    /** Undefined where the client finds it by itself. */
    readonly data: string | undefined
    readonly isWithUnit: boolean
  },
): NextStep[] {
  const flag = options.config === undefined ? '' : ` --config ${quoted(options.config)}`
  const id = { what: 'the id of this node', command: `mesh-node id${flag}` }
  const start = { what: 'start it', command: `mesh-node${flag}` }
  const boot = { what: 'at boot', command: `mesh-node install-service --print${flag}` }
  const client = options.data === undefined ? 'mesh' : `mesh --data ${quoted(options.data)}`
  const look = { what: 'look at it', command: `${client} nodes` }
  const common = [start, look, ...(options.isWithUnit ? [] : [boot])]
  switch (place.kind) {
    case 'alone':
      return common
    case 'new':
      return [
        id,
        {
          what: 'on others',
          command: 'mesh-node init --parent /ip4/ADDRESS_OF_THIS/tcp/7421/p2p/ID_OF_THIS',
        },
        { what: 'admit each', command: 'its id into "allow" of this configuration' },
        ...common,
      ]
    case 'join':
      return [id, { what: 'there', command: 'add that id to "allow" of the parent' }, ...common]
  }
}
