/** `DIR/node.json`: how scripts and the client find a running daemon. Part of the public interface. */
import { z } from 'zod'
import { NodeName, PeerId } from './names.ts'

export const NODE_FILE = 'node.json'
export const SOCKET_FILE = 'node.sock'

export const NodeFile = z.object({
  v: z.literal(1),
  name: NodeName,
  peerId: PeerId,
  /** libp2p multiaddrs with the peer id at their end; empty with `--listen none`. */
  listen: z.array(z.string()),
  /** Base URL of the HTTP side, without a slash at the end; empty with `--http none`. */
  http: z.string(),
  /** Path of the unix socket of the API. */
  socket: z.string(),
  pid: z.int().min(1),
  /** Protocol ids that it speaks, such as `/mesh/work/1`. */
  protocols: z.array(z.string()),
})
export type NodeFile = z.infer<typeof NodeFile>
