// dcmjs-dimse as a peer: echo, store, find, get, move to itself; prints what it was told as JSON.
// node dimse_peer.mjs PACKAGE PORT OWN_PORT STUDY_UID FILE...
import { createHash } from "node:crypto";
import { createRequire } from "node:module";
const [, , folder, port, ownPort, study, ...files] = process.argv;
const { Client, Server, Scp, requests, responses, constants, log } = createRequire(import.meta.url)(folder);
log.setLevel("silent");
const { Status, TransferSyntax, PresentationContextResult } = constants;
const seen = { statuses: {}, found: [], got: {}, moved: {}, errors: [] };

const told = dataset => {
  const { SOPInstanceUID, PixelData } = dataset.getElements();
  const parts = (Array.isArray(PixelData) ? PixelData : [PixelData]).map(part => Buffer.from(part));
  return [SOPInstanceUID, [dataset.getTransferSyntaxUid(), createHash("sha256").update(Buffer.concat(parts)).digest("hex")]];
};
const keep = (into, request, callback) => {
  const [uid, what] = told(request.getDataset());
  into[uid] = what;
  const response = responses.CStoreResponse.fromRequest(request);
  response.setStatus(Status.Success);
  callback(response);
};

class Receiver extends Scp {
  associationRequested(association) {
    for (const { id } of association.getPresentationContexts()) {
      const context = association.getPresentationContext(id);
      context.setResult(PresentationContextResult.Accept, context.getTransferSyntaxUids()[0]);
    }
    this.sendAssociationAccept();
  }
  cStoreRequest(request, callback) { keep(seen.moved, request, callback); }
  associationReleaseRequested() { this.sendAssociationReleaseResponse(); }
}

const ask = (name, ...asked) => new Promise(resolve => {
  const client = new Client();
  seen.statuses[name] = [];
  for (const request of asked) {
    request.on("response", response => {
      if (response.getStatus() !== Status.Pending) seen.statuses[name].push(response.getStatus());
      else if (name === "find") seen.found.push(response.getDataset().getElements());
    });
    client.addRequest(request);
  }
  client.on("cStoreRequest", (request, callback) => keep(seen.got, request, callback));
  client.on("networkError", error => { seen.errors.push(`${name}: ${error.message}`); resolve(); });
  client.on("associationRejected", () => { seen.errors.push(`${name}: rejected`); resolve(); });
  client.on("closed", resolve);
  client.send("127.0.0.1", Number(port), "DCMJS", "PACSPARK");
});

const server = new Server(Receiver);
server.on("networkError", error => seen.errors.push(`own: ${error.message}`));
server.listen(Number(ownPort));
await ask("echo", new requests.CEchoRequest());
await ask("store", ...files.map(file => {
  const request = new requests.CStoreRequest(file);
  request.setAdditionalTransferSyntaxes([TransferSyntax.RleLossless]);
  return request;
}));
await ask("find", requests.CFindRequest.createStudyFindRequest({ PatientID: "P*", StudyInstanceUID: "" }));
await ask("get", requests.CGetRequest.createStudyGetRequest(study));
await ask("move", requests.CMoveRequest.createStudyMoveRequest("DCMJS", study));
server.close();
console.log(JSON.stringify(seen));
