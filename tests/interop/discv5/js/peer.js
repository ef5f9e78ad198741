// A discv5 node of @chainsafe/discv5 that obeys commands: one JSON object a line on standard input,
// one answer a line on standard output. `protocol.md` beside this folder names the commands.
import { createSocket } from "node:dgram";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";

import { Discv5 } from "@chainsafe/discv5";
import { ENR, SignableENR } from "@chainsafe/enr";
import { generateKeyPair, privateKeyFromRaw } from "@libp2p/crypto/keys";
import { multiaddr } from "@multiformats/multiaddr";

const { values: options } = parseArgs({
  options: {
    port: { type: "string", default: "0" },
    key: { type: "string", default: "" },
    bootnodes: { type: "string", default: "" },
  },
});

const say = (what) => process.stdout.write(JSON.stringify(what) + "\n");
const texts = (records) => records.map((record) => record.encodeTxt());

async function freePort() {
  const socket = createSocket("udp4");
  await new Promise((done) => socket.bind(0, "127.0.0.1", done));
  const { port } = socket.address();
  await new Promise((done) => socket.close(done));
  return port;
}

async function open(port, key) {
  const privateKey = key ? privateKeyFromRaw(Buffer.from(key, "hex")) : await generateKeyPair("secp256k1");
  const enr = SignableENR.createFromPrivateKey(privateKey);
  enr.ip = "127.0.0.1"; // as fields: setLocationMultiaddr fails with this pair of versions
  enr.udp = port || (await freePort());
  const node = Discv5.create({
    enr,
    privateKey,
    bindAddrs: { ip4: multiaddr(`/ip4/127.0.0.1/udp/${enr.udp}`) },
    config: { enrUpdate: false },
  });
  await node.start();
  return node;
}

const node = await open(Number(options.port), options.key);
node.on("talkReqReceived", (address, _enr, message) => {
  const known = Buffer.from(message.protocol).toString() === "echo";
  const answer = known ? Uint8Array.from(message.request).reverse() : new Uint8Array();
  node.sendTalkResp(address, message.id, answer).catch(() => {});
});
const bootnodes = options.bootnodes.split(",").filter(Boolean);
for (const text of bootnodes) node.addEnr(text);
if (bootnodes.length > 0) node.findRandomNode().catch(() => {});

const commands = {
  async ping({ enr }) {
    const pong = await node.sendPing(ENR.decodeTxt(enr));
    return { seq: Number(pong.enrSeq), ip: Array.from(pong.addr.ip.octets).join("."), port: pong.addr.port };
  },
  async findnode({ enr, distances }) {
    return { enrs: texts(await node.sendFindNode(ENR.decodeTxt(enr), distances)) };
  },
  async talk({ enr, protocol, payload }) {
    const response = await node.sendTalkReq(ENR.decodeTxt(enr), Buffer.from(payload, "hex"), protocol);
    return { payload: Buffer.from(response).toString("hex") };
  },
  async lookup({ target }) {
    return { enrs: texts(await node.findNode(target)) };
  },
  async add({ enr }) {
    node.addEnr(enr);
    return { added: true };
  },
  async table() {
    return { enrs: texts(node.kadValues()) };
  },
  async record() {
    return { enr: node.enr.encodeTxt() };
  },
};

say({ event: "ready", enr: node.enr.encodeTxt() });
const lines = createInterface({ input: process.stdin });
lines.on("line", async (line) => {
  const command = JSON.parse(line);
  try {
    say({ ...(await commands[command.op](command)), id: command.id });
  } catch (error) {
    say({ error: String(error?.message ?? error), id: command.id });
  }
});
lines.on("close", () => process.exit(0));
