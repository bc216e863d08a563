/** How a node is reached, by the mesh that it is to be part of. */
import { isLoopback, parseDialAddress } from '../../config/config-values.ts'
import type { Place } from '../machine.ts'
import type { Proposal } from './proposal.ts'

const NODE_PORT = 7421
const HTTP_PORT = 7420

export function proposeConnection(place: Place): Proposal[] {
  switch (place.kind) {
    case 'alone':
      return [] // The defaults: loopback only.
    case 'new':
      return [
        {
          setting: 'node.listen',
          value: [`/ip4/0.0.0.0/tcp/${NODE_PORT}`],
          reason: 'other machines dial this one',
        },
        {
          setting: 'node.allow',
          value: [],
          reason: 'nobody yet: add the id of each machine, which "mesh-node id" prints there',
        },
        dataPort,
      ]
    case 'join': {
      const parents = place.parents.map(parseDialAddress).filter((parent) => parent !== undefined)
      const ids = [...new Set(parents.flatMap(({ peerId }) => peerId ?? []))]
      const isHere = parents.every(({ host }) => isLoopback(host))
      return [
        {
          setting: 'node.parents',
          value: [...place.parents],
          reason:
            place.parents.length === 1
              ? 'work comes from there'
              : 'work comes from the first that answers',
        },
        {
          setting: 'node.listen',
          value: ['none'],
          reason: 'it only dials out, which works behind any router',
        },
        // Nobody can be admitted who is not known by an id.
        ...(isHere || ids.length === 0
          ? []
          : [
              { setting: 'node.allow', value: ids, reason: 'the parent, by the id in its address' },
              dataPort,
            ]),
      ]
    }
  }
}

const dataPort: Proposal = {
  setting: 'http.listen',
  value: `0.0.0.0:${HTTP_PORT}`,
  reason: 'admitted machines fetch blobs here over TLS, at a third of the cost',
}
